"""The fleet: EC2 instances, Auto Scaling groups and Run Command that really do things, without containers.

An instance is a folder and the processes in it; a command is a script that really runs. Everything else an
AWS client asks for is answered by MiniStack, in the same process and on the same port.
"""
