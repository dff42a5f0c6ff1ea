"""Prefect blocks: a scheduler, and a job on it."""
