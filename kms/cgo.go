//go:build linux && cgo

package main

// hasPKCS11 says whether modules of PKCS#11 can be loaded: not without cgo.
const hasPKCS11 = true
