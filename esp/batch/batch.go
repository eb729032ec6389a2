// Package batch is where data-path octets meet ciphers: many jobs, one key, in place. It knows nothing of protocols;
// a job is octets to authenticate, octets to encrypt, and room for the tag.
//
//	batch.go  the contract
//	gcm.go    AES-GCM with a 16-octet tag (NIST SP 800-38D)
//	cbc.go    AES-CBC, then HMAC-SHA2 (encrypt-then-MAC)
//	chacha.go ChaCha20-Poly1305 (RFC 8439)
//
//	etm.go        encrypt-then-MAC of what has no kernel: ciphers.go insecure.go mac.go
//	ccm.go gcm_cut.go  AES-CCM; AES-GCM with shorter tags, and GMAC
//
// A Key is used by many goroutines at once. Neither Seal nor Open allocates, or keeps a job.
package batch

// Job is one packet. Its slices belong to the caller, and must not overlap those of another job of the batch.
type Job struct {
	// Head is authenticated and not encrypted: it comes before Text. For CBC it ends with the IV.
	Head []byte
	// Text is encrypted or decrypted in place. The tag lies in the octets behind it, within its capacity.
	Text []byte
	// Tail is authenticated behind Text without being sent. Only HMAC keys know it.
	Tail []byte
	// IV is the nonce: 12 octets for GCM and ChaCha20-Poly1305, 16 for CBC.
	IV [16]byte
	// OK says, after Open, that the tag was right. If not, Text is garbage.
	OK bool
	// Scratch is the caller's, for a Head or Tail that is not part of the packet.
	Scratch [16]byte
}

// Key seals and opens batches of jobs with one key.
type Key interface {
	// Seal encrypts every Text and writes its tag.
	Seal(jobs []Job)
	// Open verifies and decrypts every job, and sets OK.
	Open(jobs []Job)
	// TagLen is the tag's size in octets.
	TagLen() int
}
