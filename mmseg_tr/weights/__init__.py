"""Reading a file of weights, renaming its keys, comparing and loading strictly, fetching. For any network."""
