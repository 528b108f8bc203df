"""Answers of the service: an export behind parsed requests, and a cache."""
