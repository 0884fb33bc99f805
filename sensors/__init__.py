"""What starts and keeps running: the collectors' jobs with their supervisor."""
