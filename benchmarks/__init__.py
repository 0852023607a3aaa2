"""The workloads of the project's figures: distilnb, its peers and bare loops, side by side in one run."""
