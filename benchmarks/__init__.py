"""Side by side with what a user would pick instead: cp, shutil, dd; fio as the limit. Recorded, never asserted."""
