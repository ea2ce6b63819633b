# Vault for docker-compose.yml: one server, on a volume.
storage "file" {
  path = "/data"
}
listener "tcp" {
  address       = "0.0.0.0:8200"
  tls_cert_file = "/vault/tls/server.pem"
  tls_key_file  = "/vault/tls/server.key"
}
disable_mlock = true # needs a capability that the container hasn't got
ui            = false
