// Command asm writes the amd64 kernels of esp/batch:
//
//	go run . -out ../kernels_amd64.s -stubs ../kernels_amd64.go -pkg batch
//
// docs/kernels.md tells how they work.
package main

import . "github.com/mmcloughlin/avo/build"

func main() {
	ConstraintExpr("amd64")
	data()
	for _, k := range []kernel{{128, 10, false}, {192, 12, false}, {256, 14, false}, {128, 10, true}, {192, 12, true}, {256, 14, true}} {
		k.generate()
	}
	for _, bits := range []int{128, 192, 256} {
		kernel256{bits, bits/32 + 6, false}.generate()
		kernel256{bits, bits/32 + 6, true}.generate()
	}
	subWord()
	powerTable()
	cbcSeal()
	cbcSealWide()
	cbcOpen()
	inverseKey()
	sha256()
	sha1()
	sha1Wide()
	sha256Wide()
	sha512Wide()
	chacha20()
	poly1305()
	leaf7()
	Generate()
}
