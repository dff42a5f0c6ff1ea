"""Tasks: jobs, batches of them, stages and pipelines. Each ``foo`` has an async form ``afoo``."""
