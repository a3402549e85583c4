"""What happened to each request and when, for Chrome's trace viewer; knows no engine."""
