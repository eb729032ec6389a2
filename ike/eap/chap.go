package eap

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"coati/policy"
)

// client answers the requests of one method. data is what follows the type.
type client interface {
	respond(id uint8, data []byte) ([]byte, error)
	// done says whether the method is through, so that Success may be believed, and what it made.
	done() (msk policy.Secret, ok bool)
	// slow says that the next step should not hold others up.
	slow() bool
	close()
}

// server asks for one method.
type server interface {
	begin(id uint8) []byte
	// receive takes a response: what to ask next, or nil and no error when the client has proved who it is.
	receive(id uint8, data []byte) ([]byte, error)
	msk() policy.Secret // empty: the method makes none
	slow() bool
	close()
}

// quick is a method that computes little and holds nothing.
type quick struct{}

func (quick) slow() bool { return false }
func (quick) close()     {}

// user is whom a server's method checks.
type user struct {
	name     string
	password policy.Secret
	known    bool
}

// wrong says what failed, for people of the server's side.
func (u *user) wrong() error {
	if !u.known {
		return fmt.Errorf("there is no user %q: see eap-users-file", u.name)
	}
	return fmt.Errorf("the user %q gives another password than eap-users-file has", u.name)
}

// MD5-Challenge, RFC 3748, section 5.4.

type md5Client struct {
	quick
	name     string
	password policy.Secret
	proved   bool
}

func md5Value(id uint8, password policy.Secret, challenge []byte) []byte {
	h := md5.New()
	h.Write([]byte{id})
	h.Write(password.Reveal())
	h.Write(challenge)
	return h.Sum(nil)
}

func (c *md5Client) respond(id uint8, data []byte) ([]byte, error) {
	if len(data) < 2 || data[0] == 0 || len(data) < 1+int(data[0]) {
		return nil, errMalformed
	}
	c.proved = true
	return append(append([]byte{md5.Size}, md5Value(id, c.password, data[1:1+data[0]])...), c.name...), nil
}

func (c *md5Client) done() (policy.Secret, bool) { return policy.Secret{}, c.proved }

type md5Server struct {
	quick
	user      *user
	challenge []byte
}

func (s *md5Server) begin(uint8) []byte {
	return append([]byte{byte(len(s.challenge))}, s.challenge...)
}

func (s *md5Server) receive(id uint8, data []byte) ([]byte, error) {
	if len(data) < 1+md5.Size || data[0] != md5.Size {
		return nil, errMalformed
	}
	if ok := hmac.Equal(data[1:1+md5.Size], md5Value(id, s.user.password, s.challenge)); !ok || !s.user.known {
		return nil, s.user.wrong()
	}
	return nil, nil
}

func (s *md5Server) msk() policy.Secret { return policy.Secret{} }

// Generic Token Card, RFC 3748, section 5.6: the password itself.

type gtcClient struct {
	quick
	password policy.Secret
	proved   bool
}

func (c *gtcClient) respond(uint8, []byte) ([]byte, error) {
	c.proved = true
	return append([]byte(nil), c.password.Reveal()...), nil
}

func (c *gtcClient) done() (policy.Secret, bool) { return policy.Secret{}, c.proved }

type gtcServer struct {
	quick
	user *user
}

func (s *gtcServer) begin(uint8) []byte { return []byte("Password: ") }

func (s *gtcServer) receive(_ uint8, data []byte) ([]byte, error) {
	if ok := subtle.ConstantTimeCompare(data, s.user.password.Reveal()) == 1; !ok || !s.user.known {
		return nil, s.user.wrong()
	}
	return nil, nil
}

func (s *gtcServer) msk() policy.Secret { return policy.Secret{} }

// EAP-MSCHAPv2, draft-kamath-pppext-eap-mschapv2, section 2: op code, identifier, length, and what RFC 2759 says.

const (
	opChallenge = 1
	opResponse  = 2
	opSuccess   = 3
	opFailure   = 4

	challengeLen = 16
	responseLen  = 49 // peer challenge, 8 reserved octets, NT response, flags
)

func mschapPacket(op, id uint8, body ...[]byte) []byte {
	out := []byte{op, id, 0, 0}
	for _, b := range body {
		out = append(out, b...)
	}
	binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
	return out
}

// mschapBody checks the header; one octet alone is a response to Success or Failure.
func mschapBody(data []byte) (op, id uint8, body []byte, err error) {
	if len(data) == 1 {
		return data[0], 0, nil, nil
	}
	if len(data) < 4 || int(binary.BigEndian.Uint16(data[2:])) != len(data) {
		return 0, 0, nil, errMalformed
	}
	return data[0], data[1], data[4:], nil
}

type mschapClient struct {
	quick
	name      string
	password  policy.Secret
	challenge []byte // ours
	want      string // what proves that the server knows the password
	key       policy.Secret
	through   bool
	why       error // what the server says to be wrong
}

func (c *mschapClient) respond(_ uint8, data []byte) ([]byte, error) {
	op, id, body, err := mschapBody(data)
	switch {
	case err != nil:
		return nil, err
	case c.through:
		return nil, errors.New("the server goes on after it proved that it knows the password")
	case op == opChallenge && c.want == "":
		if len(body) < 1+challengeLen || body[0] != challengeLen {
			return nil, errMalformed
		}
		server := body[1 : 1+challengeLen]
		hash := ntHash(c.password)
		defer clear(hash)
		response := ntResponse(server, c.challenge, c.name, hash)
		c.want = authenticatorResponse(hash, response, c.challenge, server, c.name)
		c.key = mschapv2MSK(hash, response)
		return mschapPacket(opResponse, id, []byte{responseLen}, c.challenge, make([]byte, 8), response, []byte{0}, []byte(c.name)), nil
	case op == opSuccess && c.want != "":
		if !checkAuthenticator(body, c.want) {
			return nil, errors.New("the server does not know our password: it is not who it says, or has another one")
		}
		c.through = true
		return []byte{opSuccess}, nil
	case op == opFailure && c.want != "":
		// A new attempt would be with the same password.
		c.why = mschapFailure(string(body))
		return []byte{opFailure}, nil
	}
	return nil, errMalformed
}

func (c *mschapClient) done() (policy.Secret, bool) { return c.key, c.through }
func (c *mschapClient) close()                      { c.key.Wipe() }

type mschapServer struct {
	quick
	user      *user
	name      string // ours
	challenge []byte
	id        uint8
	failed    bool
	passed    bool
	key       policy.Secret
}

func (s *mschapServer) begin(id uint8) []byte {
	s.id = id
	return mschapPacket(opChallenge, id, []byte{challengeLen}, s.challenge, []byte(s.name))
}

func (s *mschapServer) receive(_ uint8, data []byte) ([]byte, error) {
	op, id, body, err := mschapBody(data)
	switch {
	case err != nil:
		return nil, err
	case s.failed:
		return nil, s.user.wrong() // it has heard of it
	case s.passed && op == opSuccess:
		return nil, nil
	case s.passed || op != opResponse || id != s.id || len(body) < 1+responseLen || body[0] != responseLen:
		return nil, errMalformed
	}
	peer, response, name := body[1:17], body[25:49], string(body[50:])
	if len(name) > MaxIdentity {
		return nil, errMalformed
	}
	hash := ntHash(s.user.password)
	defer clear(hash)
	same := withoutDomain(name) == withoutDomain(s.user.name)
	if ok := hmac.Equal(response, ntResponse(s.challenge, peer, name, hash)); !ok || !s.user.known || !same {
		s.failed = true
		return mschapPacket(opFailure, s.id, fmt.Appendf(nil, "E=691 R=0 C=%X V=3 M=Authentication failed", s.challenge)), nil
	}
	s.passed = true
	s.key = mschapv2MSK(hash, response)
	return mschapPacket(opSuccess, s.id, []byte(authenticatorResponse(hash, response, peer, s.challenge, name)+" M=OK")), nil
}

func (s *mschapServer) refused() error {
	if s.failed {
		return s.user.wrong()
	}
	return nil
}

func (s *mschapServer) msk() policy.Secret { return s.key }
func (s *mschapServer) close()             { s.key.Wipe() }
