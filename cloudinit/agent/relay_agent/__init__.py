"""The program inside the relay: fetches the credential, proves it, opens port 25, watches the mail.

It runs on the guest's own Python (3.8 and newer) with the distribution's `python3-boto3` and the
standard library only, and imports nothing of `builder`, which is not in the image.
"""

__version__ = "0.1.0"
