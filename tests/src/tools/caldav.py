# Adds events, reads each of them again and lists all of them, until its input ends. An error ends it.
import select, sys, warnings
import caldav
warnings.filterwarnings("ignore")
url, user, password = sys.argv[1:]
client = caldav.DAVClient(url, username=user, password=password, ssl_verify_cert=False, timeout=90)
calendar = client.principal().calendars()[0]
n = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    n += 1
    name = f"caldav-{n}"
    event = calendar.save_event(
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:test\r\nBEGIN:VEVENT\r\n"
        f"UID:{name}\r\nDTSTAMP:20260101T000000Z\r\nDTSTART:20260101T100000Z\r\nSUMMARY:{name}\r\n"
        "END:VEVENT\r\nEND:VCALENDAR\r\n"
    )
    event.load()
    assert name in event.data, event.data
    if n % 10 == 0:
        assert len(calendar.events()) == n
    print(name)
