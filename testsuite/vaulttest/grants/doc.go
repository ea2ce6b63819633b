// Package grants tests grants of kind vault with real parts alone: the issuer
// with its ledger, Vault, and a PostgreSQL server that Vault makes logins in.
package grants
