// Package transit tests SSH CAs whose key is in Vault, with a real Vault and
// real sshds.
package transit
