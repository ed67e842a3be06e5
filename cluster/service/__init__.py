"""What talks to a cluster, or to other programs, from outside of a sweep."""
