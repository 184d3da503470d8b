"""What is trained and from where: functions over pytrees, and interceptors."""
