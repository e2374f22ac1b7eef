"""The vocabulary that everything else speaks: verdict, direction, connection key, process, connection, packet.

Plain values, most of them frozen, with what follows from them alone: reading and building packets, checksums,
the answers that a refused packet gets. It imports nothing of ours and does no input or output.
"""
