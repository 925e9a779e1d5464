"""Soak test: an hour under an API server's load, watched for growth, slowdown and lost events."""
