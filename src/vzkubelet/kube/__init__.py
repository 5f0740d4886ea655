"""The API server: credentials, requests, watches, and what an agent reads from and reports to it.

Certificate signing requests (bootstrap and rotation) belong here too, as ``certificates``: what they renew is the
client certificate that `credentials` presents.
"""
