package firewall

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// generation is the id of the kernel's nftables rules in this namespace: every committed change moves it, and it is
// never 0. Asking costs 0.1 ms, reading the rules with iptables-save 2 ms.
func generation() (uint32, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, fmt.Errorf("open nftables: %w", err)
	}
	defer conn.Close()
	replies, err := conn.Execute(nftMessage(unix.NFT_MSG_GETGEN, 0, nil))
	if err != nil {
		return 0, fmt.Errorf("read nftables generation: %w", err)
	}
	for _, r := range replies {
		if len(r.Data) < 4 {
			continue
		}
		attributes, err := netlink.UnmarshalAttributes(r.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("read nftables generation: %w", err)
		}
		for _, a := range attributes {
			if a.Type == unix.NFTA_GEN_ID && len(a.Data) == 4 {
				return binary.BigEndian.Uint32(a.Data), nil
			}
		}
	}
	return 0, fmt.Errorf("read nftables generation: none in the answer")
}

// deleteAt deletes IPv4 chains and tables in one transaction, which fails with ERESTART if the generation is not at
// any more. google/nftables cannot say that, and deletes a chain together with whatever rule just got into it.
func deleteAt(at uint32, objects []object) error {
	if len(objects) == 0 {
		return nil
	}
	begin := batchMessage(unix.NFNL_MSG_BATCH_BEGIN)
	genID := binary.BigEndian.AppendUint32(nil, at)
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFNL_BATCH_GENID, Data: genID}})
	if err != nil {
		return err
	}
	begin.Data = append(begin.Data, attributes...)
	batch := []netlink.Message{begin}
	for _, o := range objects {
		kind, names := uint16(unix.NFT_MSG_DELTABLE), []netlink.Attribute{{Type: unix.NFTA_TABLE_NAME, Data: []byte(o.table + "\x00")}}
		if o.chain != "" {
			kind = unix.NFT_MSG_DELCHAIN
			names = []netlink.Attribute{
				{Type: unix.NFTA_CHAIN_TABLE, Data: []byte(o.table + "\x00")},
				{Type: unix.NFTA_CHAIN_NAME, Data: []byte(o.chain + "\x00")},
			}
		}
		attributes, err := netlink.MarshalAttributes(names)
		if err != nil {
			return err
		}
		m := nftMessage(kind, unix.NFPROTO_IPV4, attributes)
		m.Header.Flags |= netlink.Acknowledge
		batch = append(batch, m)
	}
	batch = append(batch, batchMessage(unix.NFNL_MSG_BATCH_END))

	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	defer conn.Close()
	if _, err := conn.SendMessages(batch); err != nil {
		return err
	}
	for range objects { // one acknowledgement each, or one error for all
		if _, err := conn.Receive(); err != nil {
			return err
		}
	}
	return nil
}

func nftMessage(kind uint16, family uint8, attributes []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attributes...),
	}
}

func batchMessage(kind netlink.HeaderType) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
	}
}
