# Keeps a copy of a calendar up to date by sync tokens. Each line of its input says what to do, and gets a line of JSON;
# an error ends it.
import json, sys, warnings
import caldav
from caldav.elements import dav
from caldav.lib import error
warnings.filterwarnings("ignore")
url, user, password = sys.argv[1:]
client = caldav.DAVClient(url, username=user, password=password, ssl_verify_cert=False, timeout=90)
answers = []
client.session.hooks["response"].append(lambda answer, *_, **__: answers.append(answer))
calendar = client.principal().calendars()[0]
copy = calendar.objects_by_sync_token(load_objects=True)
print(json.dumps({}))


def ics(name, summary):
    return (
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:test\r\nBEGIN:VEVENT\r\n"
        f"UID:{name}\r\nDTSTAMP:20260101T000000Z\r\nDTSTART:20260101T100000Z\r\nSUMMARY:{summary}\r\n"
        "END:VEVENT\r\nEND:VCALENDAR\r\n"
    )


def name_of(url):
    return str(url).rsplit("/", 1)[1].removesuffix(".ics")


def etag(event):
    return event.props[dav.GetEtag.tag]


def known(name):
    return next(event for url, event in copy.objects_by_url().items() if name_of(url) == name)


# RFC 6578 §3.2: without a token everything is listed; what it does not list is gone.
def begin_again():
    global copy
    before, copy = copy.objects_by_url(), calendar.objects_by_sync_token(load_objects=True)
    there = copy.objects_by_url()
    changed = [url for url in there if url not in before or etag(before[url]) != etag(there[url])]
    return changed, [url for url in before if url not in there]


def sync():
    refused = None
    try:
        changed, gone = ([event.url for event in events] for events in copy.sync())
    except error.DAVError:
        answer = answers[-1]
        if answer.status_code not in (403, 409) or "valid-sync-token" not in answer.text:
            raise
        refused = {"status": answer.status_code, "type": answer.headers["Content-Type"], "text": answer.text}
        refused["asked"] = answer.request.body.decode()
        changed, gone = begin_again()
    changed, gone = (sorted(map(name_of, urls)) for urls in (changed, gone))
    return {"refused": refused, "changed": changed, "gone": gone}


def put(name):
    calendar.save_event(ics(name, name))
    return {}


# As it is known here: whoever changed it meanwhile is not overwritten.
def change(name, summary):
    event = known(name)
    fields = {"Content-Type": "text/calendar", "If-Match": etag(event)}
    return {"status": client.put(event.url, ics(name, summary), fields).status}


def delete(name):
    known(name).delete()
    return {}


def show():
    events = copy.objects_by_url().values()
    return {"events": sorted(event.vobject_instance.vevent.summary.value for event in events)}


does = {"sync": sync, "put": put, "change": change, "delete": delete, "show": show}
for line in sys.stdin:
    order, *arguments = line.split()
    print(json.dumps(does[order](*arguments)))
