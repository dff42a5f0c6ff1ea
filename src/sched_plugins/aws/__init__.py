"""The ports on AWS, one file a service. Begin with :mod:`sched_plugins.aws.world`."""
