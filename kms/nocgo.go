//go:build !cgo

package main

const hasPKCS11 = false
