package policy

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is key material: a pre-shared key, a session key, a private value. It prints as [redacted] under
// every verb, in JSON, text and slog. Only Reveal opens it.
type Secret struct{ b []byte }

// NewSecret takes ownership of b.
func NewSecret(b []byte) Secret { return Secret{b} }

// Reveal returns the octets themselves, not a copy. Callers are cryptography, the key log, and setkey -D for root.
func (s Secret) Reveal() []byte { return s.b }

// Len is the number of octets.
func (s Secret) Len() int { return len(s.b) }

// Equal compares in constant time for equal lengths.
func (s Secret) Equal(o Secret) bool { return subtle.ConstantTimeCompare(s.b, o.b) == 1 }

// Wipe overwrites the octets with zeros. The Secret and all its copies are useless afterwards.
func (s Secret) Wipe() { clear(s.b) }

// Clone returns a Secret with octets of its own.
func (s Secret) Clone() Secret { return Secret{append([]byte(nil), s.b...)} }

func (s Secret) String() string                { return redacted }
func (s Secret) GoString() string              { return redacted }
func (s Secret) Format(f fmt.State, verb rune) { _, _ = io.WriteString(f, redacted) }
func (s Secret) MarshalText() ([]byte, error)  { return []byte(redacted), nil }
func (s Secret) LogValue() slog.Value          { return slog.StringValue(redacted) }
