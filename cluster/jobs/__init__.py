"""What a verb starts: sweeps, claims, searches for networks, rankings."""
