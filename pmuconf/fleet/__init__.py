"""Many hosts' reports, joined: read from files, folded into one aggregate, ranked, compared, planned."""
