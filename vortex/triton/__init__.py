"""The GPU backend: generated scoring, exact selection and paged attention in Triton."""
