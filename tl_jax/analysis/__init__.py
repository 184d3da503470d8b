"""What went wrong in a run, and how far its results hold on corrupted and on foreign images."""
