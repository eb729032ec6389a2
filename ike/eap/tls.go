package eap

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"coati/policy"
)

// EAP-TLS, RFC 5216; with TLS 1.3, RFC 9190.

const (
	tlsKeyLabel   = "client EAP encryption"         // RFC 5216, section 2.3
	tlsKeyLabel13 = "EXPORTER_EAP_TLS_Key_Material" // RFC 9190, section 2.3
)

func pool(t *policy.Trust) *x509.CertPool {
	p := x509.NewCertPool()
	if t != nil {
		for _, c := range t.Authorities {
			p.AddCert(c)
		}
	}
	return p
}

func certificates(c *policy.Credential) []tls.Certificate {
	if c == nil || len(c.Chain) == 0 {
		return nil
	}
	out := tls.Certificate{PrivateKey: c.Key.Signer(), Leaf: c.Chain[0]}
	for _, x := range c.Chain {
		out.Certificate = append(out.Certificate, x.Raw)
	}
	return []tls.Certificate{out}
}

// clientTLS checks the server's certificate and its name.
func clientTLS(cfg *policy.EAP) *tls.Config {
	return &tls.Config{RootCAs: pool(cfg.Trust), ServerName: string(cfg.ServerID.Data)}
}

func newTLSClient(now time.Time, cfg *policy.EAP) client {
	t := clientTLS(cfg)
	own := certificates(cfg.Credential)
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if len(own) == 0 {
			return nil, errors.New("we have no certificate: see eap-cert-file")
		}
		return &own[0], nil // whatever authorities the server names
	}
	return &tlsClient{session: newSession(now, t, true, func(s *session) error {
		if err := s.conn.Handshake(); err != nil {
			return err
		}
		if s.conn.ConnectionState().Version >= tls.VersionTLS13 {
			// The server says by one octet that it has seen our certificate (RFC 9190, section 2.1.1).
			var b [2]byte
			if n, err := s.conn.Read(b[:]); err != nil {
				return err
			} else if n != 1 || b[0] != 0 {
				return errors.New("the server sends something else than the end of TLS")
			}
		}
		s.through = true
		return s.export(tlsKeyLabel, tlsKeyLabel13, TypeTLS)
	})}
}

func newTLSServer(now time.Time, cfg *policy.EAP, identity string, version uint16) server {
	out := &tlsServer{}
	out.session = newSession(now, &tls.Config{
		Certificates: certificates(cfg.Credential), ClientCAs: pool(cfg.Trust), ClientAuth: tls.RequireAndVerifyClientCert, MaxVersion: version,
	}, false, func(s *session) error {
		if err := s.conn.Handshake(); err != nil {
			return err
		}
		state := s.conn.ConnectionState()
		if err := certified(state.PeerCertificates[0], identity); err != nil {
			return err
		}
		out.user = identity
		s.through = true
		if err := s.export(tlsKeyLabel, tlsKeyLabel13, TypeTLS); err != nil || state.Version < tls.VersionTLS13 {
			return err
		}
		_, err := s.conn.Write([]byte{0})
		return err
	})
	return out
}

// certified says whether a certificate is for a user: one of its alternative names, its common name, or its subject.
func certified(c *x509.Certificate, identity string) error {
	names := slices.Concat(c.DNSNames, c.EmailAddresses, []string{c.Subject.CommonName})
	if dn, err := policy.FormatDN(c.RawSubject); err == nil {
		names = append(names, dn)
	}
	if identity != "" && slices.ContainsFunc(names, func(n string) bool { return n != "" && strings.EqualFold(n, identity) }) {
		return nil
	}
	return fmt.Errorf("the client says it is %q and has a certificate for %q", identity, c.Subject.CommonName)
}
