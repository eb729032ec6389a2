package xfrm

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"coati/policy"
)

// ErrUnable: this kernel, or what we may do with it, is not enough for a kernel plane.
var ErrUnable = errors.New("this kernel cannot carry esp")

// Probe says in one line why there can be no kernel plane here; nil: there can. It adds an SA between two addresses for
// benchmarks (RFC 2544, appendix C.2.2), with a random key, and deletes it.
func Probe() error {
	c, err := dial()
	if err != nil {
		return explain(err)
	}
	defer c.close()
	return probe(c)
}

func probe(c *conn) error {
	err := try(c, "aes128gcm16", "")
	if errors.Is(err, unix.ENOSYS) {
		// The kernel looks for the algorithm before it looks for ESP: another one, which all have, tells them apart.
		err = errors.Join(try(c, "aes128", "sha256"), err)
	}
	if err != nil {
		return explain(err)
	}
	return nil
}

func try(c *conn, encryption, integrity string) error {
	enc := policy.LookupKeyword(encryption)
	key := make([]byte, enc.KeyLen+4)
	_, _ = rand.Read(key) // it never fails: crypto/rand ends the program instead
	sa := policy.SA{
		Direction: policy.Inbound, Protocol: policy.ProtocolESP, SPI: policy.SPI(binary.BigEndian.Uint32(key[enc.KeyLen:]) | 1<<31), ReplayWindow: 64, ESN: true,
		Path: policy.Path{
			Local: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 0, 1}), 0), Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 19, 255, 255}), 0),
		},
		Local: policy.AnySelectors(), Remote: policy.AnySelectors(), Encryption: enc.Transform(), EncryptionKey: policy.NewSecret(key[:enc.KeyLen]),
	}
	if integrity != "" {
		integ := policy.LookupKeyword(integrity)
		sa.Integrity, sa.IntegrityKey = integ.Transform(), policy.NewSecret(make([]byte, integ.KeyLen))
	}
	defer sa.EncryptionKey.Wipe()
	if err := c.do(stateMessage(&sa, flagsCreate, 0, 0, marking{}), nil); err != nil {
		return err
	}
	r, err := c.get(identity(&sa))
	if err == nil {
		err = r.differs(&sa, 0)
	}
	return errors.Join(err, c.remove(identity(&sa)))
}

func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT):
		var r *refusal
		if errors.As(err, &r) {
			return fmt.Errorf("%w: it has xfrm without esp (INET_ESP)", ErrUnable)
		}
		return fmt.Errorf("%w: it has no xfrm (XFRM_USER)", ErrUnable)
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: it has esp without aes-gcm", ErrUnable)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: it wants CAP_NET_ADMIN", ErrUnable)
	}
	return fmt.Errorf("%w: %w", ErrUnable, err)
}
