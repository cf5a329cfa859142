"""What several adapters share: the systems of one vendor, and the conventions of Chinese API gateways."""
