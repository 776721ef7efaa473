"""Clients that carry the running call's credential: hooks for httpx, requests, SQLAlchemy and botocore."""
