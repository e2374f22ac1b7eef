"""The kernel half and its loader.

The eBPF sources live here (``*.bpf.c``, one layer a file, sharing ``types.h`` and ``maps.h``), with the
Python that loads them through libbpf, attaches them with links, pins what must outlive this process,
and reads and writes their maps by the types that the compiled objects themselves describe (BTF).
``native/`` holds the few C functions that run per packet in user space, each with a twin in Python.
Imports `tidewaiter.model` alone; `host` brings it together with the policy and the driver.
"""
