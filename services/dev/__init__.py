"""The stack on one machine and the command line `myriad`.

It starts processes and watches them; it imports the kit and generated stubs, never a service.
"""
