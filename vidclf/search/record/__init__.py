"""What a study's database keeps."""
