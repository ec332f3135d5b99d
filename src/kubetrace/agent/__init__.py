"""Tracers that keep running, and what they count as metrics for the Prometheus that is there.

watch.py (a thread for each tracer) --rows--> series.py (bounded) --> metrics.py --> serve.py /metrics, /healthz
"""
