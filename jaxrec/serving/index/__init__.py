"""Approximate index of titles: candidates by usearch, scored and filtered exactly."""
