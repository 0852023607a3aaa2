"""WHO checks: the review plan, and Argilla as one place to carry it out."""
