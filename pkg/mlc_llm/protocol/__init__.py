"""What the rooms say to each other and to users: plain values, no behaviour."""
