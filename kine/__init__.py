"""kine: the etcd v3 API on SQLite, PostgreSQL, MySQL/MariaDB or NATS JetStream."""
