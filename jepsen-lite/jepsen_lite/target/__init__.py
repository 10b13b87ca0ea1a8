"""What is tested: clusters of several kinds behind one face (`base`)."""
