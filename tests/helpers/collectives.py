"""The operations by which devices exchange data."""

# A regular expression for their names in compiled programs.
COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter"
