"""The chat's two pages: choose a name and a room; be in the room."""

from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from home.rules import MAX_NAME, MAX_ROOM, MAX_TEXT, Refused, clean_name, clean_room

SUGGESTED_ROOMS = {
    "lobby": "Say hello",
    "tea-break": "Nothing urgent",
    "rubber-ducks": "Explain it, then solve it",
}


def enter(request: HttpRequest) -> HttpResponse:
    """Ask for a name and a room. When both are given and right, go there."""
    name = request.GET.get("name")
    own_room = request.GET.get("own_room", "").strip().lower()
    room = own_room or request.GET.get("room", "lobby")
    error = None
    if name is not None:
        try:
            place = reverse("chat-room", args=[clean_room(room)])
            return redirect(f"{place}?{urlencode({'name': clean_name(name)})}")
        except Refused as refusal:
            error = str(refusal)
    context = {
        "error": error,
        "name": name or "",
        "room": room,
        "own_room": "" if room in SUGGESTED_ROOMS else room,
        "rooms": SUGGESTED_ROOMS,
        "max_name": MAX_NAME,
        "max_room": MAX_ROOM,
    }
    return render(request, "chat/enter.html", context, status=400 if error else 200)


def room(request: HttpRequest, room: str) -> HttpResponse:
    """Show a room to somebody with a name; ask for the name first where it is missing."""
    try:
        clean_room(room)
    except Refused as refusal:
        raise Http404(str(refusal)) from refusal
    try:
        name = clean_name(request.GET.get("name"))
    except Refused:
        return redirect(f"{reverse('chat')}?{urlencode({'room': room})}")
    return render(request, "chat/room.html", {"room": room, "name": name, "max_text": MAX_TEXT})
