"""Recorded traffic, through the same driver and the same policy as live traffic.

`capture` reads pcap and pcapng files, of which `links` finds the IP packets; `programs` reads the file that
says which program used which local port, which no capture can know; `player` plays both to the driver by the
capture's own clock. It imports `tidewaiter.driver`, `policy`, `names` and `model`, nothing of
the live host: a replay needs no privileges and changes nothing.
"""
