"""The pages."""

from chat import views as chat
from django.urls import path
from django.views.generic import TemplateView
from payments import views as payments

urlpatterns = [
    path("", TemplateView.as_view(template_name="home/home.html"), name="home"),
    path("chat/", chat.enter, name="chat"),
    path("chat/<str:room>/", chat.room, name="chat-room"),
    path("rooms/", TemplateView.as_view(template_name="rooms/rooms.html"), name="rooms"),
    path("board/", TemplateView.as_view(template_name="board/board.html"), name="board"),
    path("payments/", payments.checkout, name="checkout"),
    path("payments/bank/<str:order>/", payments.bank, name="bank"),
]
