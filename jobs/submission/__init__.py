"""Handing jobs to a cluster through the Ray Jobs API: what travels, the job server, the log."""
