"""`fairsweep dashboard`: the report of every sweep, comparison and run of claims of a store, live, for a browser."""
