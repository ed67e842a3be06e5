"""Small networks in the manner of those that users of pruning tools report trouble with, and what comes of them."""
