//go:build !amd64

package batch

import "hash"

func kernels() []string { return []string{Generic} }

func newWideGCM(string, []byte, *gcm) Key { return nil }

func newWideCBC(_ string, _, _ []byte, _ func() hash.Hash, _ *cbc) Key { return nil }

func newWideChaCha(string, []byte, *chacha) Key { return nil }

func newTagger(string, []byte, func() hash.Hash, int) tagger { return nil }
