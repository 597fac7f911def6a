package api

import (
	"errors"
	"math"
	"reflect"
	"testing"

	"github.com/godbus/dbus/v5"
)

func TestOptions(t *testing.T) {
	for _, tt := range []struct{ in, want any }{
		{"a", "a"}, {true, true}, {[]string{"a", "b"}, []string{"a", "b"}}, {[]string{}, []string{}},
		{uint32(7), uint32(7)}, {byte(7), uint32(7)}, {int16(7), uint32(7)}, {uint16(7), uint32(7)},
		{int32(7), uint32(7)}, {int64(7), uint32(7)}, {uint64(7), uint32(7)}, {uint32(math.MaxUint32), uint32(math.MaxUint32)},
		{dbus.MakeVariant("a"), "a"},
		{dbus.MakeVariant(dbus.MakeVariant("a")), nil},
		{int32(-1), nil}, {int16(-1), nil}, {int64(-1), nil}, {int64(math.MaxUint32 + 1), nil}, {uint64(math.MaxUint32 + 1), nil},
		{1.5, nil}, {[]int32{1}, nil}, {map[string]string{}, nil}, {dbus.ObjectPath("/a"), nil},
	} {
		got, err := decodeOptions(values{"key": dbus.MakeVariant(tt.in)})
		var e *Error
		switch {
		case tt.want == nil && (!errors.As(err, &e) || e.Kind != InvalidArgument):
			t.Errorf("%#v: %v, %v", tt.in, got, err)
		case tt.want != nil && (err != nil || !reflect.DeepEqual(got["key"], tt.want)):
			t.Errorf("%#v: %#v, %v", tt.in, got["key"], err)
		}
	}
}
