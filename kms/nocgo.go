//go:build linux && !cgo

package main

const hasPKCS11 = false
