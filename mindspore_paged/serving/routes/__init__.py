"""The paths, one noun a file: each turns a checked body into requests, and updates into chunks or a whole answer."""
